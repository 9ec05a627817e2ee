from paddleseg_psp.commands.compare_logs import main

if __name__ == "__main__":
    main()
